"""What kvikio is told before it reads; its own defaults leave a drive idle."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KvikioSettings:
    """Of the whole process, since kvikio has one pool of threads."""

    num_threads: int = 16
    """As many as requests in flight. Its own default is one."""
    task_nbytes: int = 4 * 2**20
    """Longer requests are cut into tasks for several threads."""
    is_direct: bool = True
    """Whether O_DIRECT is used too where it reads through host memory."""
