"""The error rate of the last minute."""

from streams.smtp.window import BUCKET_S, BUCKETS, ErrorRate, ErrorWindow


def test_what_failed_of_what_was_done():
    window = ErrorWindow()
    for now, failed in ((0, True), (1, False), (15, False), (16, True)):
        window.add(now, failed=failed)
    assert window.rate(20) == ErrorRate(4, 2)
    assert window.rate(20).ratio == 0.5
    assert not window.clean


def test_it_moves_on():
    window = ErrorWindow()
    window.add(5, failed=True)
    end = BUCKET_S * BUCKETS
    assert window.rate(end - 1).errors == 1
    assert window.rate(end) == ErrorRate()
    assert window.rate(end).ratio == 0.0


def test_it_holds_a_few_numbers_however_long_it_runs():
    window = ErrorWindow()
    window.add(0, failed=True)
    for now in range(1000):
        window.add(60 + now, failed=False)
    assert len(window._buckets) == BUCKETS
    assert window.clean
