"use strict";
// One image at a time: a newer one takes the place of an older one, whose answer is not waited for.
const at = (id) => document.getElementById(id);
let model = null, asked = null, shown = null, current = null;
const kept = { top: "5", threshold: "0" }; // what the fields said last

const megabytes = (bytes) => bytes / 1e6;

function complain(text) {
  at("error").textContent = text;
  at("result").hidden = true;
}

function row(name, probability) {
  const line = document.createElement("tr"), cell = document.createElement("td"), meter = document.createElement("meter");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  meter.max = 1;
  meter.value = probability;
  meter.setAttribute("aria-hidden", "true"); // the number beside it says the same
  cell.append(meter, `${(100 * probability).toFixed(1)} %`);
  line.append(head, cell);
  return line;
}

function show(file, found) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  at("image").src = shown;
  at("image").alt = `The image ${file.name || "that was pasted"}`;
  at("caption").textContent = `${file.name || "pasted image"}, ${found.milliseconds} ms`;
  at("answer").textContent = found.answer === null ? "None of these" : found.answer;
  at("classes").replaceChildren(...found.top.map((one) => row(one.class, one.probability)));
  at("error").textContent = "";
  at("result").hidden = false;
}

async function reason(response) {
  try {
    const told = (await response.json()).detail;
    return typeof told === "string" ? told : told.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ");
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function predict(file) {
  current = file;
  if (asked) asked.abort();
  if (model && megabytes(file.size) > model.max_megabytes)
    return complain(`This file has ${megabytes(file.size).toFixed(1)} megabytes; at most ${model.max_megabytes} are taken.`);
  const mine = (asked = new AbortController());
  at("form").setAttribute("aria-busy", "true");
  try {
    const options = new URLSearchParams({ top: at("top").value, threshold: at("threshold").value });
    const kind = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    const response = await fetch(`predict?${options}`, {
      method: "POST", body: file, headers: { "Content-Type": kind }, signal: mine.signal,
    });
    if (response.ok) show(file, await response.json());
    else complain(`No answer: ${await reason(response)}`);
  } catch (error) {
    if (error.name !== "AbortError") complain("No answer: the server cannot be reached.");
  } finally {
    if (asked === mine) at("form").removeAttribute("aria-busy");
  }
}

// A field that was emptied, or holds no number, says what it said before.
function changed(id) {
  if (at(id).value === "") at(id).value = kept[id];
  kept[id] = at(id).value;
  if (current) predict(current);
}

function take(files) {
  const file = files && files[0];
  if (file) predict(file);
}

async function begin() {
  at("form").addEventListener("submit", (event) => event.preventDefault());
  at("file").addEventListener("change", () => take(at("file").files));
  for (const id of ["top", "threshold"]) at(id).addEventListener("change", () => changed(id));
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const kind of ["dragenter", "dragover"])
    document.addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
  document.addEventListener("dragleave", (event) => event.relatedTarget || at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
  try {
    model = await (await fetch("model")).json();
    document.title = `${model.name} - fastlift`;
    at("name").textContent = model.name;
    at("about").textContent = `${model.classes.length} classes; files of up to ${model.max_megabytes} megabytes${model.calibrated ? "; calibrated" : ""}.`;
    at("top").max = model.classes.length;
    at("top").value = kept.top = String(Math.min(5, model.classes.length));
    if (model.threshold > 0) at("threshold").value = kept.threshold = String(Math.floor(1e4 * model.threshold) / 1e4);
  } catch {
    complain("The server cannot be reached.");
  }
}

begin();
