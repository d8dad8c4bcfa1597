"""Times of phones and words from events written by hand."""

from espnet_ext.audio.espeak_times import PAUSE, Event, align, phone_names


def test_hand_made_events():
    """A closure before its phone, two words in one event, stress marks, and a pause at the end."""
    events = [
        Event(False, 0, 0, ""),
        Event(True, 0, 100, ""),  # "of the", one event
        Event(False, 0, 100, "ʌ"),
        Event(False, 0, 200, "v"),
        Event(False, 0, 300, "ð"),
        Event(False, 0, 400, "ə"),
        Event(False, 0, 450, "n"),
        Event(True, 7, 500, ""),
        Event(False, 7, 550, "k"),  # its closure began with the word
        Event(False, 7, 600, "ˈæ"),
        Event(False, 11, 800, ""),
        Event(False, 11, 900, ""),
    ]
    phones, words = align("of the cat.", events, 1000, 1.0)
    assert [(label, start) for label, start, _ in phones] == [
        ("ʌ", 0.0),
        ("v", 0.2),
        ("ð", 0.3),
        ("ə", 0.4),
        ("n", 0.45),
        ("k", 0.5),
        ("æ", 0.6),
        (PAUSE, 0.8),
    ]
    assert [a.end_s for a in phones] == [b.start_s for b in phones[1:]] + [1.0]
    # Two and three letters share five phones.
    assert words == [("of", 0.0, 0.3), ("the", 0.3, 0.5), ("cat", 0.5, 0.8)]


def test_a_consonant_that_links_two_words_has_its_time():
    """espeak says where the next word begins together with the n of "one": it is not cut out of between them."""
    events = [
        Event(True, 0, 0, ""),
        Event(False, 0, 0, "w"),
        Event(False, 0, 100, "ˈʌ"),
        Event(False, 0, 200, "n"),
        Event(True, 4, 200, ""),
        Event(False, 4, 300, "ʌ"),
        Event(False, 4, 400, "v"),
        Event(False, 6, 500, ""),
    ]
    phones, words = align("one of", events, 1000, 1.0)
    assert [(label, start) for label, start, _ in phones] == [
        ("w", 0.0), ("ʌ", 0.1), ("n", 0.2), ("ʌ", 0.3), ("v", 0.4), (PAUSE, 0.5),
    ]  # fmt: skip
    assert words == [("one", 0.0, 0.3), ("of", 0.3, 0.5)]


def test_a_sound_that_is_said_with_the_one_before_has_half_of_it():
    """The l of "self": its event has the time of the f, or of the pause, that follows."""
    events = [Event(True, 0, 0, ""), Event(False, 0, 0, "s"), Event(False, 0, 100, "ˈɛ"), Event(False, 0, 300, "l")]
    for last in ("f", ""):
        phones, _ = align("self", [*events, Event(False, 0, 300, last)], 1000, 0.5)
        assert [(label, start) for label, start, _ in phones] == [
            ("s", 0.0), ("ɛ", 0.1), ("l", 0.2), (last or PAUSE, 0.3),
        ]  # fmt: skip


def test_marks_belong_to_the_phone_before():
    """A mark with an event of its own, one that only the written phones have, and what says the language."""
    events = [
        Event(True, 0, 0, ""),
        Event(False, 0, 0, "p"),
        Event(False, 0, 100, "ʲ"),
        Event(False, 0, 200, "ˈɑ"),
        Event(False, 0, 300, "l"),
        Event(True, 3, 400, ""),
        Event(False, 3, 400, "(en)"),
        Event(False, 3, 400, "h"),
        Event(False, 3, 500, "ɐ̃ʊ"),
        Event(False, 5, 600, ""),
    ]
    written = phone_names("pʲ_ˈɑː_l (en)_h_ˌɐ̃ʊ̃ (ru)")
    assert written == ["pʲ", "ɑː", "l", "h", "ɐ̃ʊ̃"]
    phones, words = align("pa hi", events, 1000, 1.0, written)
    assert [(label, start) for label, start, _ in phones] == [
        ("pʲ", 0.0), ("ɑː", 0.2), ("l", 0.3), ("h", 0.4), ("ɐ̃ʊ̃", 0.5), (PAUSE, 0.6),
    ]  # fmt: skip
    assert words == [("pa", 0.0, 0.4), ("hi", 0.4, 0.6)]
    # Where other phones were written, only those marks are taken that are sure.
    phones, _ = align("pa hi", events, 1000, 1.0, ["pʲ", "e", "lː", "h", "ɐ̃ʊ̃"])
    assert [label for label, *_ in phones] == ["pʲ", "ɑ", "lː", "h", "ɐ̃ʊ̃", PAUSE]
