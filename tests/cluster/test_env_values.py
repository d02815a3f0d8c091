"""Values of cluster.env, expanded by bash in a job and by Python on this machine."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.cluster.env_values import expanded, shell_text
from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.variables import variables_in

FIELD = "cluster.env.A"
ENVIRON = {"HOME": "/home/me", "USER": "me", "SCRATCH": "/scr atch/$USER", "_X1": "", "GLOB": "*"}


def by_bash(value: str, environ: dict[str, str] = ENVIRON) -> subprocess.CompletedProcess[str]:
    """Run bash with the value as the script of a job has it."""
    script = f'export A={shell_text(FIELD, value)}\nprintf %s. "$A"\n'
    return subprocess.run(["bash"], input=script, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("plain", "plain"),
        ("", ""),
        ("$SCRATCH/cache", "/scr atch/$USER/cache"),
        ("${SCRATCH}_2:$USER", "/scr atch/$USER_2:me"),
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("~me/x", "~me/x"),
        ("a/~", "a/~"),
        ("$_X1", ""),
        ("$GLOB", "*"),
        ("cost: 5$", "cost: 5$"),
        ("$5", "$5"),
        ("$$USER", "$USER"),
        ("$(touch owned) `id` ${USER:-x} 'q' \"$USER\"", "$(touch owned) `id` ${USER:-x} 'q' \"me\""),
    ],
)
def test_variables_and_home_are_expanded_and_nothing_else(value: str, result: str) -> None:
    assert expanded(FIELD, value, ENVIRON) == result
    assert by_bash(value).stdout == f"{result}."


PIECES = [*"${}~/'\"\\`() \n?xé", "USER", "HOME"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_bash_and_python_expand_alike(value: str) -> None:
    done = by_bash(value)
    if set(variables_in(value)) <= ENVIRON.keys():
        assert done.stdout == f"{expanded(FIELD, value, ENVIRON)}."
    else:
        assert done.returncode != 0


def test_unset_variable_is_named_and_ends_the_script() -> None:
    message = "cluster.env.A: the variable NOPE is not set on this machine"
    with pytest.raises(SpecError, match=message):
        expanded(FIELD, "$USER/$NOPE", ENVIRON)
    done = by_bash("$USER/$NOPE")
    assert done.returncode != 0
    assert done.stdout == ""
    assert message in done.stderr
    assert variables_in("$USER/${NOPE}") == ["USER", "NOPE"]
