"""Run the ``precreate`` hooks of a launch: each may answer with another configuration.

Source: containers/common, oci-hooks(5) and pkg/hooks/exec ``RuntimeConfigFilter``: the document on
stdin, its successor on stdout, one hook after the other.

Rules:
- They run on the host, as the user, without any capability, before there is a namespace.
- What they may change is ``plan.amended``'s to say.
"""

from __future__ import annotations

import json
import os

from fairlead import errors
from fairlead.host import strict
from fairlead.plan import amended, oci
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch_request
from fairlead.run import hooks

MAX_ANSWER = 8 << 20


def applied(plan: launch_plan.Plan, request: launch_request.Request) -> launch_plan.Plan:
    """Return what the hooks of a plan make of it.

    Raises:
        errors.HookError: one fails, or answers what it may not.
    """
    for hook in plan.hooks:
        if hook.stage not in hooks.BEFORE:
            continue
        # What the hook reads is compared with what it writes: both as JSON has them.
        config = oci.config(plan, request.environ)
        config["annotations"] = {**config["annotations"], **dict(request.annotations)}
        data = json.dumps(config).encode()
        checked = hooks.checked(hook)
        answer = os.memfd_create("fairlead-config", os.MFD_CLOEXEC)
        try:
            hooks.run(checked, data, answer=answer)
            if os.fstat(answer).st_size > MAX_ANSWER:
                raise hooks.failed(checked, f"what it answers has more than {MAX_ANSWER} bytes")
            given = os.pread(answer, MAX_ANSWER, 0)
        finally:
            os.close(answer)
        try:
            plan = amended.plan(plan, json.loads(data), given, hook.origin)
        except (strict.WrongError, errors.DeviceError, errors.UsageError) as wrong:
            raise hooks.failed(checked, f"what it answers: {wrong}") from wrong
    return plan
