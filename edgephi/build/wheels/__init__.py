"""Wheels that a bundle carries, so that a device installs the runtime without a network.

`platform` says what a device's Python takes, `own_wheel` makes edgephi's own wheel, `pip` asks pip for all
others, `dependencies` finds out which of them the device needs, and `collect` puts it together.
"""
