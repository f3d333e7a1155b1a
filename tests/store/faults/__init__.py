"""Machines of destruction for the store, one a file, and the tests that hold what survives them.

disks.py         real file systems on loop devices
traced.py        strace: every call of a process, and one of them killed or failed
bundles.py       the bundles that are flashed: two good ones, and bad ones with honest manifests
box.py           a store, edgephi's commands on it, and a look at it that uses none of the store's code

power_cut.py     the disk copied at an instant      drive_cache.py  the drive loses part of its cache
killed.py        SIGKILL at every call              full_disk.py    no room, and errors of input and output
decay.py         bits flip, files are cut           together.py     two commands at once
clocks.py        other years, other boots           bad_probes.py   bundles that answer badly

`python -m tests.store.faults.table` runs all of them and prints the table of docs/flash.md.
"""
