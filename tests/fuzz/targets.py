"""All targets, by name."""

from tests.fuzz import (
    config,
    dialogue,
    names,
    questions,
    received,
    reception,
    replies,
    samples,
    token,
)

TARGETS = {
    "replies": replies.TARGET,
    "dialogue": dialogue.TARGET,
    "reception": reception.TARGET,
    "token": token.TARGET,
    "config": config.TARGET,
    "names": names.TARGET,
    "received": received.TARGET,
    "questions": questions.TARGET,
    "samples": samples.TARGET,
}
