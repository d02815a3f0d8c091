"""Checks of the section `notify` before a submission: what would keep a message from being sent."""

from __future__ import annotations

from collections.abc import Mapping

from hpc_yolo.cluster.webhook import NoAddress, webhook_address
from hpc_yolo.core.variables import variables_in
from hpc_yolo.spec.notify_rules import require_shell_command
from hpc_yolo.spec.schema import Spec


def notify_warnings(spec: Spec, environ: Mapping[str, str], *, for_slurm: bool) -> list[str]:
    """Return a warning for a webhook whose address is not known here, or does not reach the job.

    Raises:
        SpecError: the lines of the command are no bash.
    """
    notify = spec.notify
    if notify is None:
        return []
    require_shell_command(notify)
    if notify.webhook is None:
        return []
    try:
        webhook_address(notify.webhook, environ)
    except NoAddress as error:
        return [f"notify.webhook: {error}, so no message would be sent; hpc-yolo notify test tries it"]
    export = spec.cluster.sbatch.get("export")
    kept = ",".join(export) if isinstance(export, list) else export
    if not for_slurm or not isinstance(kept, str) or "ALL" in kept.split(","):
        return []
    lost = [name for name in variables_in(notify.webhook) if name != "HOME" and name not in kept]
    return [f"notify.webhook: cluster.sbatch.export does not pass {name} on to the job" for name in lost]
