"""A virtual injector: an EPICS IOC with a beam in it, to tune and to test with, without a machine. See README.md."""
