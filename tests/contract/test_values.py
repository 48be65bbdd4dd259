"""Values a user writes: what is taken, and what each refusal says."""

import pytest

from contract import settings, values


def test_a_directory_is_an_absolute_path():
    assert values.directory("/var/lib/evenstream") == "/var/lib/evenstream"
    assert settings.from_flags_and_environment({}, {})["state-dir"] is None


def test_seconds_are_whole_and_bounded():
    assert values.seconds("28") == 28
    assert settings.from_flags_and_environment({}, {})["drain-timeout"] == 28


@pytest.mark.parametrize("bad", ["0", "-1", "1.5", "86401", "9" * 5000, "", "ten", "\u0665"])
def test_any_other_seconds_are_refused(bad: str):
    with pytest.raises(values.BadValueError, match="whole seconds"):
        values.seconds(bad)


@pytest.mark.parametrize("bad", ["state", "./state", "", "/a\0b"])
def test_any_other_directory_is_refused(bad: str):
    with pytest.raises(values.BadValueError, match="absolute path"):
        values.directory(bad)
