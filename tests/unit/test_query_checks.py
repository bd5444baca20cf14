"""Checks of queries, on texts of the embedded model."""

from __future__ import annotations

import pytest

from delia_data.engines.base import Finish
from delia_data.sampling.generated_queries import query_checks, rejection_reason
from delia_data.sampling.queries import bundled_queries

CHECKS = query_checks("<sep>")

GOOD = [
    "What's copyright",
    "How do I play basketball well?",
    "Which Norse god is associated with the Northern Lights?",
    "Describe the process of hibernation in simple terms.",
    "What are some creative ways to make a travel blog.",
    "I'm curious about folk songs. Write a short one that showcases the genre's main themes.",
    "I need some help with recycling. Give me some tips.",
    "Help me translate the following sentence into Spanish: The cat sat on the mat.",
    'How can I make this sentence more concise? Here it is: "The employee was very nervous."',
    "List all of the types of adoption, from what they can give to the ones they cannot.",
    "Why did people say no to jury duty, and what came of it?",
    "I'm curious about haiku. What are they, and what is it that makes them so short?",
    "Is it possible to build a castle on sand?",
    "Yes or no: is it safe to eat raw rice?",
]
BAD = [
    ("?!", "empty"),
    ("", "empty"),
    ("Deserts?", "too_short"),
    ("Why " * 20, "repetition"),
    ("What is " + " ".join(f"w{n}" for n in range(70)) + "?", "too_long"),
    ("What does <sep> mean to you?", "names_token"),
    ("What is it?<|im_end|> and then", "chat_marks"),
    ("A: What is a traditional type of pottery?", "chat_marks"),
    ("How do I fix it?\nAssistant: First, look at it.", "chat_marks"),
    ("Please assist me with a DIY DIY DIY Project on Fossils.", "repetition"),
    ("Can you open https://example.org/a for me?", "link"),
    ("Can you write to me at someone@example.org please?", "link"),
    ("Which of these is right, and why is it:", "unended"),
    ("Können Sie mir erklären, wieso Bäume grün sind?", "language"),
    ("¿Qué es la fotografía?", "language"),
    ("Почему небо голубое?", "language"),
    ("Sure, I have a question about baseball from a sports blog.", "answer_like"),
    ("I'm sorry, but I can't assist with that request.", "answer_like"),
    ("You are a helpful AI assistant. I like you.", "answer_like"),
    ("Which word is spelled right? The answer is pellet.", "answer_like"),
    ("Can you explain the process?\n\nI can offer suggestions on how to do it.", "answer_like"),
    ("Can you summarize the following passage?", "lacks_context"),
    ("Can you provide a summary of this article about the climate?", "lacks_context"),
    ("Explain it in 50 words or less.", "lacks_context"),
    ("How does that work?", "lacks_context"),
    ("My alma mater's study guide was released just yesterday.", "no_request"),
    ("10 grams of water = 10 * 2.301 = 25.02 liters.", "no_request"),
    ("Anna Miller said nothing at all about the game.", "no_request"),
    ("It's a lovely day, and I'd rather not talk about the game plan.", "no_request"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good_queries(text: str) -> None:
    assert rejection_reason(text, "stop", CHECKS) is None


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_bad_queries(text: str, reason: str) -> None:
    assert rejection_reason(text, "stop", CHECKS) == reason


@pytest.mark.parametrize(("finish", "reason"), [("length", "cut_off"), ("error", "failed")])
def test_failures_and_truncation_come_first(finish: Finish, reason: str) -> None:
    assert rejection_reason("What is a desert like?", finish, CHECKS) == reason
    assert rejection_reason("", finish, CHECKS) == reason


def test_nearly_all_bundled_queries_pass() -> None:
    """They are known to be queries, so that what is rejected of them is rejected wrongly."""
    faults = [rejection_reason(query.text, "stop", CHECKS) for query in bundled_queries(3_000)]
    assert sum(fault is not None for fault in faults) <= 0.04 * len(faults)


def test_other_languages_on_request() -> None:
    checks = query_checks("<sep>", english=False)
    assert (
        rejection_reason("Können Sie mir erklären, wieso Bäume grün sind?", "stop", checks) is None
    )
    assert rejection_reason("为什么天空是蓝色的?", "stop", checks) is None
    assert rejection_reason("Was heißt <sep> auf Deutsch?", "stop", checks) == "names_token"
