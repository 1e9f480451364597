"""Keeps the memory up with people's reviews, those given to other services on the same database too."""

from __future__ import annotations

import threading

from service.captions.captioner import Captioner
from service.records.store import Records


class Follower:
    """Any thread. What it has caught up with, memory and taxonomy know."""

    def __init__(self, records: Records, captioner: Captioner) -> None:
        """Teach the captioner every case there is. Raises RecordsFailure."""
        self._records = records
        self._captioner = captioner
        self._one_at_a_time = threading.Lock()
        self._mark = records.case_mark()
        captioner.learn(list(records.cases()))

    def catch_up(self) -> None:
        """Learn what reviews changed since the last time. Raises RecordsFailure."""
        with self._one_at_a_time:
            while (changes := self._records.case_changes(self._mark)).mark != self._mark:
                knows = self._captioner.memory.knows
                self._captioner.learn([case for case in changes.cases if not knows(case.case_id)], changes.withdrawn)
                self._mark = changes.mark
