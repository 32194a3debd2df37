"""Which of the site's OCI hooks a launch runs. Pure.

Rules:
- Only what the user said selects a hook: annotations and the command of the request. What an image
  says of itself (labels, its own command) selects nothing on the host.
- A hook that applies and cannot be run at its moment stops the launch by name; none is passed over.
"""

from __future__ import annotations

from fairlead import errors
from fairlead.host import hooks
from fairlead.plan import request as launch

# Moments that nobody is there for.
IMPOSSIBLE = {"poststart": "nothing of Fairlead is left once the command has started"}


def chosen(rules: tuple[hooks.Rule, ...], request: launch.Request) -> tuple[hooks.Hook, ...]:
    """Return the hooks that apply to a launch, in the order in which they run."""
    return tuple(hook for rule in rules if applies(rule.when, request) for hook in rule.hooks)


def check(wanted: tuple[hooks.Hook, ...]) -> None:
    """Raise where a hook is for a moment that no launch has.

    Raises:
        errors.HookError
    """
    for hook in wanted:
        if hook.stage in IMPOSSIBLE:
            raise errors.HookError(
                f"{hook.origin}: {hook.path} cannot run at {hook.stage}: {IMPOSSIBLE[hook.stage]}",
                hint="ask the administrator to remove the stage from the hook",
            )


def applies(when: hooks.When, request: launch.Request) -> bool:
    """Tell whether all conditions of a hook hold.

    Source: containers/common, oci-hooks(5); pkg/hooks/1.0.0 (patterns are found anywhere, unless
    they say otherwise).
    """
    import re

    met = 0
    for wanted, held in ((when.always, True), (when.bind_mounts, bool(request.volumes))):
        if wanted is not None:
            if not (wanted and held):
                return False
            met += 1
    for name, value in when.annotations:
        if not any(re.search(name, n) and re.search(value, v) for n, v in request.annotations):
            return False
        met += 1
    if when.commands:
        words = (*(request.entrypoint or ()), *request.command)
        return bool(words) and any(re.search(command, words[0]) for command in when.commands)
    return met > 0
