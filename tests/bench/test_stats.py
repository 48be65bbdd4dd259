from bench.stats import Summary, ratio, summarise


def test_a_summary_is_the_median_and_the_range() -> None:
    assert summarise([9.0, 1.0, 2.0]) == Summary(2.0, 1.0, 9.0, 3)


def test_an_even_number_of_rounds_takes_the_middle_of_both() -> None:
    assert summarise([1.0, 2.0, 4.0, 100.0]) == Summary(3.0, 1.0, 100.0, 4)


def test_nothing_measured_is_no_summary() -> None:
    assert summarise([]) is None


def test_a_ratio_needs_both_and_a_positive_divisor() -> None:
    two, eight, below = (Summary(value, value, value, 1) for value in (2.0, 8.0, -1.0))
    assert ratio(two, eight) == 0.25
    assert ratio(two, None) is None
    assert ratio(None, eight) is None
    assert ratio(two, below) is None
