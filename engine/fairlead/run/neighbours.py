"""The other nodes of a step, with which an image is fetched: whether there are any, by which way.

Opened by whoever finds that something must be fetched; a launch that finds its image pays nothing.
What cannot be had here (no sbcast, no directory) costs a line, and each node asks the registry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairlead import errors, log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fairlead.config import Config
    from fairlead.plan.request import Step
    from fairlead.store import spread
    from fairlead.store.layout import Store


class Neighbours:
    """One step's way to its other nodes; ``close`` before namespaces are made."""

    def __init__(
        self, channel: spread.Channel, step: Step, config: Config, environ: Mapping[str, str]
    ) -> None:
        self._channel, self._step, self._config = channel, step, config
        self._conf = environ.get("SLURM_CONF", "")
        self._asked = False
        self._spread: spread.Spread | None = None

    def open(self, store: Store) -> spread.Spread | None:
        """Return what to fetch with, None if each node is on its own."""
        if not self._asked:
            self._asked = True
            self._spread = self._opened(store)
        return self._spread

    def close(self) -> None:
        """Part from the others; a thread of ours or a file of theirs does not outlive this."""
        self._asked = True
        if self._spread is not None:
            self._spread.__exit__(None, None, None)
            self._spread = None

    def _opened(self, store: Store) -> spread.Spread | None:
        from fairlead.store import leftovers, spread

        if not self._channel.is_open():
            return None
        try:
            leftovers.sweep(store)  # of this step, where it was requeued
            found = spread.Spread(self._channel, self._way(store), store, self._step.nodes)
            return found.__enter__()
        except errors.BusyError as error:  # the store is one that nodes share
            log.debug(f"this node asks the registry: {error.message}")
        except (errors.Error, OSError) as error:
            reason = error.message if isinstance(error, errors.Error) else str(error)
            log.note(f"each node asks the registry: {reason}")
        self._channel.send("all")  # nobody is to wait for what this node needs
        return None

    def _way(self, store: Store) -> spread.Way:
        name = f"{self._step.job_id}.{self._step.step_id}"
        directory, how = self._config.spread_dir, self._config.spread
        if how == "directory" and not directory:
            raise errors.ConfigError("spread is directory, and spread_dir is not set")
        if directory and how != "sbcast":
            from fairlead.store import spread_directory

            return spread_directory.Directory(directory, name)
        from fairlead.store import sbcast

        return sbcast.Sbcast(store, name, self._conf)
