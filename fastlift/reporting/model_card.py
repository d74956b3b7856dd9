"""The model card of a run: what Hugging Face's hub shows of it, made from what the run has stored."""

from __future__ import annotations

import jinja2

from fastlift import __version__
from fastlift.evaluation.metrics import GROUP_NAMES
from fastlift.reporting.comparison import interval_of
from fastlift.reporting.figures import FIGURES, Figure
from fastlift.reporting.record import RunRecord

_PAPERS = {
    "lift": ("Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", "2309.10019"),
    "lift_plus": ("LIFT+: Lightweight Fine-Tuning for Long-Tail Learning", "2504.13282"),
}
_SHOWN = 30  # classes by name

_TEXT = jinja2.Template(
    """\
# {{ name }}

An image classifier for {{ classes }} classes, trained by [{{ paper }}](https://arxiv.org/abs/{{ arxiv }}) with fastlift {{ version }}:
{{ tuner }} and a {{ classifier }} classifier, {{ "{:,}".format(trained) }} numbers in all, on the frozen backbone `{{ backbone }}`.
{% if parts %}
These numbers are the {{ how }} average of {{ parts }} trained checkpoints: `soup` in `results.json` tells which.
{% endif %}
## How to use it

```python
import fastlift

model = fastlift.from_pretrained("{{ repository }}")
print(model.predict("photo.jpg"))  # names and probabilities; a list or a folder gives a list
```
{% if files %}
It needs {{ files | join(" and ") }} in the working folder, which {{ "is" if files | length == 1 else "are" }} not part of this
repository.
{% endif %}
## Data

{{ data.name }}: {{ "{:,}".format(data.train_images) }} training and {{ "{:,}".format(data.test_images) }} test images of \
{{ classes }} classes, {{ largest }} down to {{ smallest }} training images each.

| group | classes | training images of a class |
|---|---|---|
{% for group in groups -%}
| {{ group.name }} | {{ group.classes }} | {{ group.images }} |
{% endfor %}
{% if names | length <= shown -%}
Classes: {{ names | join(", ") }}.
{%- else -%}
The first {{ shown }} classes: {{ names[:shown] | join(", ") }} … (all in `data.json`).
{%- endif %}

## Accuracy on the test split

| figure | value | 95 % interval |
|---|---|---|
{% for figure in figures -%}
| {{ figure.title }} | {{ figure.value }} | {{ figure.interval }} |
{% endfor %}
Intervals say what chance in the choice of the test images leaves open: Wilson's for overall accuracy, else a bootstrap of the test
images within each class. What hangs on the few worst classes alone has none.

## Limits

The classes above are the only answers that it knows: an image of anything else gets one of them. It was tested on images like those
that it was trained on, and on no others. {% if few %}Rare classes are less certain: those with few training images reach {{ few }}.{% endif %}

## Licence and citation

{% if licence %}The weights in this repository: `{{ licence }}`.{% else %}No licence was stated for the weights in this repository.{% endif %} \
The backbone and the images have licences of their own.

```bibtex
@article{lift, title = {{ "{" }}{{ paper }}{{ "}" }}, author = {Shi, Jiang-Xin and others}, journal = {arXiv preprint arXiv:{{ arxiv }}}}
```
""",
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)


def model_card(
    run: RunRecord, repository: str, *, licence: str | None = None, base: str | None = None, files: tuple[str, ...] = ()
) -> str:
    """The card of a run that has ended, as Markdown below the hub's metadata in YAML.

    Args:
        repository: its name on the hub, ``user/name``.
        licence: of what was trained, as the hub spells it (``apache-2.0``).
        base: the backbone's repository on the hub, where it has one.
        files: names of the files that a user needs beside it.
    """
    model, data, metrics = run.section("model"), run.data, run.metrics()
    counts, names = data["class_counts"], [_escaped(name) for name in run.class_names()]
    paper, arxiv = _PAPERS["lift_plus" if run.config.get("recipe") == "lift_plus" else "lift"]
    shown = [
        {
            "title": figure.title(metrics),
            "value": f"{figure.text(metrics)} {figure.unit}",
            "interval": _interval(run, figure),
        }
        for figure in FIGURES
        if figure.value(metrics) is not None
    ]
    groups = [
        {
            "name": group,
            "classes": int(mask.sum()),
            "images": _range([n for n, one in zip(counts, mask, strict=True) if one]),
        }
        for group, mask in run.groups().items()
    ]
    few, of_few = (
        metrics.get(GROUP_NAMES[-1]),
        _interval(run, next(one for one in FIGURES if one.name == GROUP_NAMES[-1])),
    )
    soup = run.section("soup")
    parts = sum(one["weight"] > 0 for one in soup.get("ingredients", []))
    text = _TEXT.render(
        name=_escaped(repository.rpartition("/")[2]), repository=repository, version=__version__, classes=len(names),
        paper=paper, arxiv=arxiv, tuner=" + ".join(model.get("tuner") or ["no tuner"]), trained=model.get("tuned_parameters", 0),
        classifier=run.config.get("model", {}).get("classifier", "cosine"), backbone=model.get("name", "unknown"),
        data={**data, "name": _escaped(data["name"])}, largest=max(counts), smallest=min(counts), groups=groups, names=names,
        shown=_SHOWN, parts=parts, how=_escaped(soup.get("how", "")), figures=shown, licence=licence, files=[f"`{file}`" for file in files],
        few=None if few is None else f"{few:.1f} %{of_few and f' ({of_few})'}",
    )  # fmt: skip
    return _metadata(run, repository, licence, base) + text


def _metadata(run: RunRecord, repository: str, licence: str | None, base: str | None) -> str:
    """What the hub itself reads, written by its own library."""
    from huggingface_hub import EvalResult, ModelCardData

    metrics = run.metrics()
    results = [
        EvalResult(
            task_type="image-classification", dataset_type=run.data["name"], dataset_name=run.data["name"], dataset_split="test",
            metric_type="accuracy", metric_name=figure.plain_title, metric_value=round(value / 100, 4),
        )
        for figure in FIGURES
        if figure.unit == "%" and figure.higher_is_better and (value := figure.value(metrics)) is not None
        and figure.name in ("accuracy", *GROUP_NAMES, "mean_class_accuracy")
    ]  # fmt: skip
    values = ModelCardData(
        library_name="fastlift",
        pipeline_tag="image-classification",
        tags=["fastlift", "long-tailed", "LIFT", *(run.section("model").get("tuner") or [])],
        model_name=repository.rpartition("/")[2],
        eval_results=results,
        license=licence,
        base_model=base,
    )
    return f"---\n{values.to_yaml().strip()}\n---\n\n"


def _interval(run: RunRecord, figure: Figure) -> str:
    found = interval_of(run, figure)
    return "" if found is None else f"{found[0]:.{figure.digits}f} to {found[1]:.{figure.digits}f}"


def _range(counts: list[int]) -> str:
    return f"{max(counts):,} to {min(counts):,}" if counts else "none"


def _escaped(text: str) -> str:
    """A name as Markdown shows it, on one line."""
    flat = " ".join(text.split())
    return "".join(f"\\{mark}" if mark in r"\`*_{}[]<>#|~$" else mark for mark in flat)
