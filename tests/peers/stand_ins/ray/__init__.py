"""A stand-in for ray, which verl and SkyRL import with their losses. No function that the tests run calls it."""


class ObjectRef:
    """Named in type annotations only."""


def remote(*arguments, **options):
    """The decorator of actors that are never started: returns the class."""
    return arguments[0] if arguments and not options else lambda actor: actor


def is_initialized() -> bool:
    """No cluster: the registries stay in the process."""
    return False
