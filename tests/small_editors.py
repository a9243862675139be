"""Trained editors, whose settings a test gives without saying which of them are the training's."""

from dataclasses import fields


def built(method, language_model, **settings):
    """The editor; whatever its training knows is the training's."""
    training = method.BUNDLES["training"]
    names = {field.name for field in fields(training)} & settings.keys()
    own = {name: value for name, value in settings.items() if name not in names}
    return method(language_model, training=training(**{n: settings[n] for n in names}), **own)
