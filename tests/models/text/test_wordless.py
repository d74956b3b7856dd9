"""Names without a word are told where prompts are made of them, and nowhere else."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files

import fastlift
from fastlift.errors import FastliftWarning
from fastlift.models.text.wordless import holds_word, warn_of_wordless


@pytest.mark.parametrize("name", ["n01440764", "0042", "class_7", "Label 3", "cat-12", "id7", "7", "a3f9", "_"])
def test_names_that_only_count(name: str) -> None:
    assert not holds_word(name)


@pytest.mark.parametrize(
    "name", ["tench", "cat", "class", "Boeing 747", "F-16", "green_leaf", "ねこ", "żuk", "7 up", "a"]
)
def test_names_that_hold_words(name: str) -> None:
    assert holds_word(name)


def test_the_warning_says_which_and_what_to_do() -> None:
    with pytest.warns(FastliftWarning) as caught:
        warn_of_wordless(["tench", *(f"class_{k}" for k in range(7))])
    message = str(caught[0].message)
    assert message.startswith("7 of 8 class names hold no word")
    assert "class_0, class_1, class_2, class_3, class_4, ..." in message
    assert "--class-names" in message
    assert "--init class_mean" in message


def test_words_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_wordless(["tench", "great_white_shark"])


def _warned(clip: Files, **settings: Any) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastlift.create_model(clip[0], pretrained=clip[1], class_names=["n00000001", "n00000002"], **settings)
    return any("hold no word" in str(one.message) for one in caught)


def test_models_warn_where_they_make_prompts(tiny_clip: Files, tmp_path: Path) -> None:
    sentences = tmp_path / "sentences.json"
    sentences.write_text(json.dumps({"n00000001": "a red thing", "n00000002": "a blue thing"}))
    assert _warned(tiny_clip, init="text")
    assert _warned(tiny_clip, init="text")  # the features are cached now
    assert _warned(tiny_clip, classifier="text", text_tuner="coop")
    assert not _warned(tiny_clip, init="random")
    assert not _warned(tiny_clip, init="text", prompt=f"descriptor:{sentences}")
