"""Names that would act on a terminal, a table or a spreadsheet."""

import os

import pytest

from imgcls_jax.runtime.names import csv_cell, printable


@pytest.mark.parametrize(
    "name, shown",
    [
        ("birds/été 日本 🐈.png", "birds/été 日本 🐈.png"),
        ("\x1b[31mred.png", r"\x1b[31mred.png"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x9b2J", r"\x9b2J"),
        ("exe\u202egnp", r"exe\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_act_on_becomes_its_escape(name, shown):
    assert printable(name) == shown
    printable(name).encode("utf-8", errors="strict")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1"])
def test_a_cell_is_no_formula(name):
    assert not csv_cell(name).lstrip().startswith(("=", "+", "-", "@"))


def test_other_cells_stay():
    assert csv_cell("runs/a-b=c@d.png") == "runs/a-b=c@d.png"
