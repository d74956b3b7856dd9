"""``fastlift completion``: a script that completes commands, flags and their choices in a shell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import tyro

from fastlift import recipes
from fastlift.commands import COMMANDS
from fastlift.commands.parsing import flags_and_choices, parse
from fastlift.data.datasets import catalogue

EXAMPLES = (
    "source <(fastlift completion bash)                                            in this shell",
    "fastlift completion bash > ~/.local/share/bash-completion/completions/fastlift    in every bash from now on",
    "echo 'source <(fastlift completion zsh)' >> ~/.zshrc                          in every zsh",
)

_NAMES = {"--dataset": tuple(catalogue.names()), "--recipe": tuple(recipes.RECIPES)}

_BASH = """\
# Completes `fastlift`. Made by `fastlift completion {shell}`.
_fastlift() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} flags='' choices=''
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{commands}' -- "$word"))
    return
  fi
  case $command in
{actions}
  esac
  case $command in
{flags}
  esac
  case "$command $before" in
{choices}
  esac
  if [[ -n $choices ]]; then
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _fastlift fastlift
"""
_OF_ACTION = """\
    {command})
      if ((COMP_CWORD == 2)); then
        COMPREPLY=($(compgen -W '{actions}' -- "$word"))
        return
      fi
      command="$command ${{COMP_WORDS[2]}}" ;;"""


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, flags and their choices."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Which shell reads it."""


def run(arguments: list[str]) -> int:
    """Print the script."""
    command = parse(Completion, arguments, "completion", examples=EXAMPLES)
    print(script(command.shell), end="")
    return 0


def script(shell: str) -> str:
    """The completions of all commands, as they are here."""
    actions: dict[str, list[str]] = {}
    known: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in COMMANDS:
        module = import_module(f"fastlift.commands.{name.replace('-', '_')}")
        own = list(getattr(module, "ACTIONS", ()))
        if own:
            actions[name] = own
        for words in [[name, action] for action in own] or [[name]]:
            found = flags_and_choices(module.run, words[1:])
            known[" ".join(words)] = {flag: values or _NAMES.get(flag, ()) for flag, values in found.items()}
    flags = [f"    {_quoted(name)}) flags='{' '.join(found)}' ;;" for name, found in known.items()]
    choices = [
        f"    {_quoted(f'{name} {flag}')}) choices='{' '.join(values)}' ;;"
        for name, found in known.items()
        for flag, values in found.items()
        if values
    ]
    text = _BASH.format(
        shell=shell,
        commands=" ".join(COMMANDS),
        actions="\n".join(_OF_ACTION.format(command=name, actions=" ".join(own)) for name, own in actions.items()),
        flags="\n".join(flags),
        choices="\n".join(choices),
    )
    return text if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{text}"


def _quoted(words: str) -> str:
    return json.dumps(words)
