"""Machines of destruction for the store, one a file, and the tests that hold what survives them.

power_cut.py        the disk, copied at an instant       killed.py         SIGKILL at every call
lost_cache.py       the drive loses a part of its cache  failing_calls.py  ENOSPC and EIO at every call
bad_disks.py        full, failing, read-only             decay.py          bits flip, files are cut
damaged_records.py  journal, state and links             together.py       two commands at once
lost_keys.py        the folder of trusted keys goes
clocks.py           other years, other boots             bad_probes.py     bundles that answer badly

They stand on these:

box.py              a store, the commands on it, and a look at it that uses none of its code
aftermath.py        what must hold after any fault       outcome.py        what is counted
bundles.py          the bundles that are flashed         processes.py      commands that run on
disks.py            real file systems on loop devices    traced.py         system calls, by strace
recording_drive.py  a drive that records what it is told

`python -m tests.store.faults.table` runs all of them and prints the table of docs/flash.md.
"""
