"""Help as it is read, and mistakes as they are told: one line each, in the names of the flags."""

import re

import pytest

from fastlift.cli import COMMANDS, main
from fastlift.commands import bench, data, train, zero_shot

LEAVES = [*(name for name in COMMANDS if name not in ("data", "bench")), *(f"data {name}" for name in data.ACTIONS)]
LEAVES += [f"bench {name}" for name in bench.ACTIONS]


@pytest.fixture
def helped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> list[str]:
    """The help of a command: titles, and flags with their texts."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main([*request.param.split(), "--help"])
    text = re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)  # which some versions of tyro draw here too
    parts = re.split(r"\n {1,3}(?=\S)", text)
    return [" ".join(part.split()) for part in parts]


@pytest.mark.parametrize("helped", LEAVES, indirect=True)
def test_help_tells_a_default_once_and_names_nothing_internal(helped: list[str]) -> None:
    for line in helped:
        assert "(default: True)" not in line, "of a flag --no-something"
        assert len(re.findall(r"\(default\b|\bDefault:|; default ", line)) <= 1, line
        assert not re.search(r"default: (None\)|\))|settings\.|--\w+\.\w", line), line


@pytest.mark.parametrize("helped", ["train"], indirect=True)
def test_help_names_the_sections_and_the_defaults_that_say_something(helped: list[str]) -> None:
    titles = [line for line in helped if line.endswith("options")]
    assert titles == ["options", "data options", "model options", "training options", "run options"]
    (rate,), (at_a_time,) = (
        [line for line in helped if line.startswith(f"{flag} ")] for flag in ("--lr", "--micro-batch")
    )
    assert rate.endswith("(default: 0.01)")
    assert at_a_time.endswith("gradients of a batch are accumulated (default: the whole batch).")


@pytest.mark.parametrize(("command", "basics"), [("train", train.BASICS), ("zero-shot", zero_shot.BASICS)])
def test_help_tells_what_most_people_need_and_help_all_the_rest(
    command: str, basics: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    def flags(asked: str) -> tuple[str, list[str]]:
        with pytest.raises(SystemExit) as end:
            main([command, asked])
        assert end.value.code == 0
        text = re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)
        return text, re.findall(r"^ *(?:-h, )?(--[a-z-]+)\b", text, re.MULTILINE)

    text, basic = flags("--help")
    assert f"fastlift {command} --help-all tells all" in text
    assert set(basic) == {"--help", *(f"--{name.replace('_', '-')}" for name in basics)}
    assert set(flags("-h")[1]) == set(basic)
    text, every = flags("--help-all")
    assert "--help-all" not in text
    assert set(basic) < set(every)
    assert {"--group-boundaries", "--eval-batch", "--image-size"} <= set(every) - set(basic)
    assert "{None}" not in text
    assert re.search(r"--image-size INT +\S", text)
    assert re.search(r"--data-root STR +\S", text)


@pytest.mark.parametrize("command", ["predict RUN image.jpg", "evaluate RUN"])
def test_none_is_no_choice_of_a_flag_that_may_be_left_out(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--amp", "int8"])
    told = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert "'int8' for argument '--amp'. Expected one of ('auto', 'bf16', 'fp16', 'fp32')" in told


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        *((f"bench train --{name} 0", name) for name in ("batch", "rank", "classes", "rounds")),
        *((f"bench data --{name} 0", name) for name in ("image-size", "images", "rounds", "workers")),
        ("bench data --workers 2 0", "workers"),
        ("bench data --image-size 65536", "image_size"),
        ("bench text --rounds 0", "rounds"),
        ("predict RUN image.jpg --top 0", "top"),
        ("train --rank 0", "rank"),
        ("evaluate RUN --threads 0", "threads"),
    ],
)
def test_numbers_out_of_range_are_one_line(command: str, refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    name = refused.replace("-", "_")
    assert re.fullmatch(rf"fastlift: {name}: expected [^\n]*, got \d+\n", capsys.readouterr().err)
