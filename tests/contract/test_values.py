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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", None),
        ("on", (5, 30, 50)),
        ("failures=3", (3, 30, 50)),
        ("share=90, failures=1000,seconds=3600", (1000, 3600, 90)),
    ],
)
def test_outlier_ejection(text: str, expected: tuple[int, int, int] | None):
    assert values.outlier_ejection(text) == expected
    if expected is not None:
        assert values.outlier_ejection(str(values.outlier_ejection(text))) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "yes",
        "failures",
        "failures=",
        "failures=0",
        "failures=1001",
        "share=91",
        "share=50%",
        "seconds=1e2",
    ]
    + ["failures=3,failures=4", "failures=3,", "time=3", "failures=-1", "seconds=\u0665", "on,share=10"],
)
def test_any_other_outlier_ejection_is_refused(bad: str):
    with pytest.raises(values.BadValueError, match="failures=5,seconds=30,share=50"):
        values.outlier_ejection(bad)
