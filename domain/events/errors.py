"""Why an event was not taken. All are passing: the relay keeps the outbox row and tries again."""

from domain.errors import DependencyError


class GapError(DependencyError):
    """A consumer has not seen the events before this one; it wants them from ``expected_seq`` on."""

    def __init__(self, expected_seq: int, seq: int) -> None:
        DependencyError.__init__(self, "event_gap", f"Expected event {expected_seq} of the order, got {seq}.")
        self.args = (expected_seq, seq)  # what unpickling calls the class with
        self.expected_seq = expected_seq


class ProgressMovedError(DependencyError):
    """Another instance of the same consumer took these events in the meantime; nothing was written."""

    def __init__(self, consumer: str) -> None:
        DependencyError.__init__(
            self, "consumer_progress_moved", f"Another instance of {consumer} took these events first."
        )
        self.args = (consumer,)


class SessionLostError(DependencyError):
    """The relay's database session has ended, and with it the ownership of every shard."""

    def __init__(self, reason: str) -> None:
        DependencyError.__init__(self, "relay_session_lost", f"The relay's session ended: {reason}")
        self.args = (reason,)
