"""How a command ends."""

import pytest

from utils.command_line import run_command


def fail(error: BaseException) -> str:
    raise error


def test_text_goes_to_the_output(capsys):
    assert run_command("tool", lambda: "done\n") == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("error", [ValueError("no such"), FileNotFoundError("no such")])
def test_what_a_user_can_mend_is_one_line(error, capsys):
    assert run_command("tool", lambda: fail(error)) == 1
    assert capsys.readouterr() == ("", "tool: no such\n")


def test_defects_are_not_hidden():
    with pytest.raises(TypeError):
        run_command("tool", lambda: fail(TypeError("a defect")))


def test_an_interrupt_says_how_to_go_on_or_is_raised_again(capsys):
    assert run_command("tool", lambda: fail(KeyboardInterrupt()), "go on") == 130
    assert capsys.readouterr().err == "tool: go on\n"
    with pytest.raises(KeyboardInterrupt):
        run_command("tool", lambda: fail(KeyboardInterrupt()))
