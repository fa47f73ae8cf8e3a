"""All targets, by name."""

from tests.fuzz import config, dialogue, names, reception, replies, token

TARGETS = {
    "replies": replies.TARGET,
    "dialogue": dialogue.TARGET,
    "reception": reception.TARGET,
    "token": token.TARGET,
    "config": config.TARGET,
    "names": names.TARGET,
}
