"""What this process may use of the machine: processor, cores, threads, memory, and the limits of its control groups.

The one place that asks. It loads neither torch nor NumPy, since the command line needs the answers before it does.
"""

from fastlift.system.machine.gpus import Driver, driver, gpus_are_hidden
from fastlift.system.machine.memory import Memory, memory
from fastlift.system.machine.processor import cores, cpu_quota, cpus, processor_flags, processor_name
from fastlift.system.machine.threads import plan_threads

__all__ = [
    "Driver",
    "Memory",
    "cores",
    "cpu_quota",
    "cpus",
    "driver",
    "gpus_are_hidden",
    "memory",
    "plan_threads",
    "processor_flags",
    "processor_name",
]
