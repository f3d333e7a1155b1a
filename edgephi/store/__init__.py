"""What looks after bundles on a device: installs one so that a working model is there at every moment.

    ROOT/objects/sha256/…   files by their content, read-only      ROOT/parts/   unfinished transfers, journal
    ROOT/gens/<digest>/     bundles: real names, hard links into objects
    ROOT/current → gens/X   ROOT/previous → gens/Y                 ROOT/state.json  ROOT/trust/  ROOT/lock

A generation is one bundle; its digest is the sha256 of its `bundle.json`. `edgephi.store.install` has the
order in which one comes to be. Whatever the moment of a power cut: `current` names the old generation or the
new one, whole, and `edgephi.store.recover` decides which at the next start.

This package needs the standard library only, and imports nothing of the build side: it travels to devices on
which nothing of edgephi is installed. The runtime does not import it.
"""
