"""A bundle in a registry of container images, as an artifact by the CNCF ModelPack specification.

One file an idea: the name of an artifact, who we are to the registry, what the registry answers to that, its
four verbs, what an artifact says, and the three ways to use one (push, pull, and flash from it).

The registry is spoken to by hand, over httpx2. Python's client library, oras 0.2.43, was tried: it takes
a whole blob into memory to send it, begins every download and upload again after a cut, does not compare what
it received with a digest, does not show the bytes of a manifest that the digest is over, asks for no range of
a blob, and cannot tell from the registry's answer whether it wants a password or a token. Tests pull what we
push with it, so that two independent programs have to agree on the artifact.
"""
