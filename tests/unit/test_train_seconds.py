"""Where a rank's time goes."""

from raycap.train.seconds import Stopwatch


def test_a_phase_inside_another_counts_for_itself_alone() -> None:
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    watch = Stopwatch(clock=lambda: now[0])
    wait(3)
    with watch.phase("training"):
        wait(5)
        with watch.phase("checkpoint"):
            wait(2)
        wait(1)
    wait(0.5)
    assert watch.take() == {"loading_s": 3.5, "training_s": 6.0, "checkpoint_s": 2.0}
    with watch.phase("validation"):
        wait(4)
    assert watch.take() == {"loading_s": 0.0, "validation_s": 4.0}
