"""Each gate accepts good wordings, and rejects bad ones with a reason."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerBase
from wordings import TEXTS, TRAIN, bag_of_words, verdicts

from delia_data.diversify import gate_task_wordings
from delia_data.diversify.check import MAX_WORDS, WordingChecker
from delia_data.errors import TokenError
from delia_data.records import Record
from delia_data.tasks import Task, Wording

TASK = replace(
    verdicts(),
    description="A JSON object with the keys 'thought' and 'verdict'.",
    keys=("Thought",),
    train=(
        Record.pair("Is the moon a big lamp that somebody hung up?", '{"Thought": "It is rock."}'),
        Record.pair("one two three four five six seven", '{"Thought": "eins zwei drei vier"}'),
    ),
    test=(),
)


def reason(text: str, task: Task = TASK, **options: object) -> str | None:
    return WordingChecker(task, **options).check(Wording(text))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{query} Follow the <sep> format.", None),
        ("{query} Follow the format.", "no_token"),
        ("{query} Follow the <SEP> format.", "no_token"),
        ("<sep> {query} Follow the <sep> format.", "token_repeated"),
        ("Follow the <sep> format.", "no_query_slot"),
        ("{query} and {query}: follow the <sep> format.", "no_query_slot"),
        ("{query} Follow the<sep> format.", "token_glued"),
        ("{query} Follow the <sep>s.", "token_glued"),
        ("{query} Follow the (<sep>), please.", None),
        ("{query} Follow the <sep> and the <end>.", "other_mark"),
        ("{query} Follow the <sep> for {name}.", "other_mark"),
        ("{query} Follow the <sep> for [your name].", "other_mark"),
        ("{query} Follow the <sep> <|im_end|>", "other_mark"),
        ("{query} Is 3 < 4? Follow the <sep> format.", None),
        ("{query} Follow the <sep> format, in json.", "leaks_format"),
        ("{query} Follow the <sep> format: JSON!", "leaks_format"),
        ("{query} Follow the <sep> format, an object.", "leaks_format"),
        ("{query} Follow the <sep> format, with the keys you know.", "leaks_format"),
        ("{query} Follow the <sep> format, with a Thought.", "leaks_format"),
        ("{query} Follow the <sep> format, with thoughts in columns.", None),
        ("{query} <sep>", "no_words"),
        ("{query} <sep> please", "too_short"),
        ("{query} Verify, <sep> style", None),
        (f"{{query}} <sep> {' '.join(f'w{i}' for i in range(MAX_WORDS))}", None),
        (f"{{query}} <sep> {' '.join(f'w{i}' for i in range(MAX_WORDS + 1))}", "too_long"),
        ("{query} Say it it it in <sep>.", "repetition"),
        ("{query} Is it right or is it right or wrong? <sep>", "repetition"),
        ("{query} Is it, is it not, is it right? <sep>", None),
        ("{query} Is it rock? It is rock. <sep>", None),
        ("{query} Say eins zwei drei vier in <sep>.", "leaks_answer"),
        ("{query} Say eins zwei drei in <sep>.", None),
        ("{query} Say one two three four five six in <sep>.", "copies_row"),
        ("{query} Say one two three four five in <sep>.", None),
    ],
)
def test_each_gate_that_reads(text: str, expected: str | None) -> None:
    assert reason(text) == expected


def test_words_of_any_script_are_read() -> None:
    task = replace(TASK, description="ein Objekt mit dem Schlüssel", keys=("schlüssel",))
    assert reason("{query} Nenne den SCHLÜSSEL, in <sep>.", task) == "leaks_format"
    assert reason("{query} Nenne die Schlüsselzahl, in <sep>.", task) is None
    assert reason("{query} 答えは正しいですか <sep>", task) is None
    assert reason("{query} 对 <sep>", task) == "too_short"


def test_forbidden_words() -> None:
    task = replace(TASK, forbidden=("moon", "big lamp"))
    assert reason("{query} Is the Moon there? <sep>", task) == "leaks_format"
    assert reason("{query} Is the big lamp there? <sep>", task) == "leaks_format"
    assert reason("{query} Is the lamp big there? <sep>", task) is None


def test_a_label_alone_gives_the_answer_away() -> None:
    rows = tuple(Record.pair(f"q{i}", ["good", "bad"][i % 2]) for i in range(6))
    task = replace(TASK, description="one word", keys=(), train=rows, scoring="exact")
    assert reason("{query} Tell me that it is good, in <sep>.", task) == "leaks_answer"
    assert reason("{query} Is it good or bad? <sep>", task) is None
    described = replace(task, description="one of good or bad")
    assert reason("{query} Is it good or bad? <sep>", described) == "leaks_format"


def test_the_token_is_named_once() -> None:
    twice = "Begin with <sep>, then read {query} and end with <sep>."
    assert reason(twice) == "token_repeated"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four <sep> {query}", "near_copy"),
        ("{query}: FOUR, three <sep> two, one", "near_copy"),
        ("one two three four five <sep> {query}", "near_copy"),  # 4 of 5 words shared
        ("one two three four five six <sep> {query}", None),  # 4 of 6
        ("one two three <sep> {query}", None),  # 3 of 4
    ],
)
def test_a_near_copy(text: str, expected: str | None) -> None:
    checker = WordingChecker(verdicts())
    assert checker.check(Wording("one two three four {query} <sep>")) is None
    assert checker.check(Wording(text)) == expected


def test_what_did_not_end_fails() -> None:
    checker = WordingChecker(verdicts())
    assert checker.check(TRAIN[0], "length") == "cut_off"
    assert checker.check(TRAIN[0], "error") == "failed"
    assert checker.check(TRAIN[0]) is None


# What models write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is it right? Use <sep>.\n{query}", None),
        ("Judge whether it is right. Use <sep>.\n{query}", None),
        ("Only <sep> is accepted. Tell if it is right.\n{query}", None),
        ("Use <sep> and nothing else. Is it right or not?\n{query}", None),
        ("Question: is it true?\nOutput: <sep>\n{query}", None),
        ("I would like to know if it is right. A reply in <sep> would do.\n{query}", None),
        ("Could you please see whether or not it holds? Reply in <sep>.\n{query}", None),
        ("Here is a reworded request: is it right? <sep>\n{query}", "about_rewording"),
        ("The original sentence is right. <sep>\n{query}", "about_rewording"),
        ("Sure! Is it right? Use <sep>.\n{query}", "answers"),
        ("Yes. Use <sep>.\n{query}", "answers"),
        ("The answer is made up, in <sep>.\n{query}", "answers"),
        ('Is it right that "the moon is a lamp"? Use <sep>.\n{query}', "quotes"),
        ("A: Correct\nQuestion: right or wrong?\nOutput: <sep>\n{query}", "other_turns"),
        ("Question: how to judge the claim\nOutput: <sep>\n{query}", "asks_how"),
        ("What does it mean to judge it? Reply in <sep>.\n{query}", "asks_how"),
        ("Do not judge whether it is right. Use <sep>.\n{query}", "negated"),
        ("Say that it isn't right, in <sep>.\n{query}", "negated"),
        ("Is it right? Use <sep> to separate the words.\n{query}", "token_misused"),
        ("Is it right? Use <sep> and explain.\n{query}", "token_misused"),
        ("If it is right, reply in <sep>.\n{query}", "conditional_reply"),
        ("You are a judge. Reply in <sep> if it is wrong.\n{query}", "conditional_reply"),
        (
            "Use <sep> and nothing else. Answer the question if it is wrong.\n{query}",
            "conditional_reply",
        ),
        ("Did you judge whether it is right? Use <sep>.\n{query}", "asks_how"),
        ("Say in <sep> if it is wrong.\n{query}", None),
        ("You are a judge. Reply in <sep>.\n{query}", "no_request"),
        ("The moon and a lamp, in <sep>.\n{query}", "no_request"),
    ],
)
def test_the_strict_gate(text: str, expected: str | None) -> None:
    assert reason(text, strict=True) == expected
    if expected is not None:
        assert reason(text) is None  # by hand, all of these could be meant


def test_nothing_of_the_examples() -> None:
    shown = ["You are a greengrocer who sorts fruit. Reply in <sep>."]
    copied = "You are a greengrocer who sees whether it is right. Reply in <sep>.\n{query}"
    assert reason(copied, examples=shown) == "copies_example"
    assert reason(copied.replace("greengrocer", "judge"), examples=shown) is None


# The token in the model's own ids


def test_the_token_is_one_id_after_the_template(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    assert reason(TEXTS[0], tokenizer=tiny_tokenizer) is None
    assert "<sep>" in tiny_tokenizer.get_vocab()


def test_a_template_that_breaks_the_token(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    template = str(tiny_tokenizer.chat_template)
    tiny_tokenizer.chat_template = template.replace("m['content']", "m['content'] | upper")
    assert reason(TEXTS[0], tokenizer=tiny_tokenizer) == "token_split"


def test_a_token_with_another_role(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TokenError, match="already in the model's vocabulary"):
        WordingChecker(replace(verdicts(), token="<|end|>"), tokenizer=tiny_tokenizer)


# Language


def detector(found: Mapping[str, float]) -> Callable[[str], Mapping[str, float]]:
    return lambda text: found if "sprache" in text else {"en": 0.99}


def test_the_language_is_kept() -> None:
    text = "In welcher sprache soll es sein, in <sep>?\n{query}"
    assert reason(text, detect=detector({"de": 0.9, "en": 0.001})) == "wrong_language"
    assert reason(text, detect=detector({"de": 0.5, "en": 0.001})) is None  # not sure
    assert reason(text, detect=detector({"de": 0.7, "en": 0.1})) is None  # or both
    assert reason("sprache so <sep>\n{query}", detect=detector({"de": 0.9})) is None  # too short
    assert reason(text, detect=lambda t: {"de": 0.9} if "sprache" in t else {"en": 0.3}) is None


# Meaning, by embeddings that count shared words


MOONS = replace(
    TASK,
    instruction="Judge whether the claim about the moon is right.",
    request="Judge whether the claim about the moon is right.",
    meanings=("Is it true what they claim?",),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is the claim about the moon right? <sep>\n{query}", None),
        ("Bake seven loaves before noon, <sep>\n{query}", "off_meaning"),
        ("Judge whether the claim about the moon is right. <sep>\n{query}", "copies_request"),
        ("Answer the question, in <sep>\n{query}", "other_request"),
        ("Is it true what they claim? Explain the answer in more words. <sep>\n{query}", "asks_mo"),
    ],
)
def test_the_gate_of_meaning(text: str, expected: str | None) -> None:
    found = reason(text, MOONS, embed=bag_of_words)
    assert found == expected or (expected and found and found.startswith(expected))


def test_the_same_in_other_order_is_a_near_copy_by_meaning() -> None:
    first = "Is the claim about the moon right, is the claim right? <sep>\n{query}"
    checker = WordingChecker(MOONS, embed=bag_of_words)
    assert checker.check(Wording(first)) is None
    longer = "About the claim: right is the claim, the moon is right there somehow? <sep>\n{query}"
    assert checker.check(Wording(longer)) == "near_copy"


# All together


def test_the_first_of_two_copies_is_kept_and_all_are_counted() -> None:
    copies = [
        Wording(text.upper().replace("<SEP>", "<sep>").replace("{QUERY}", "{query}"))
        for text in TEXTS
    ]
    result = gate_task_wordings(verdicts(), [*TRAIN, *copies, Wording("nothing")])
    assert result.accepted == tuple(TRAIN)
    assert [wording for wording, _ in result.rejected] == [*copies, Wording("nothing")]
    assert result.counts == {"near_copy": 5, "no_token": 1}
    assert result.share == 5 / 11
    complaint = result.complaint()
    assert complaint.startswith(
        "near_copy rejects most, 5 of 6: '{query} FOLLOW THE <sep> FORMAT.'"
    )
    assert complaint.count("<sep>") == 3
    assert gate_task_wordings(verdicts(), TRAIN).complaint() == ""
