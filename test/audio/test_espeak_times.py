"""Times of phones and words from events written by hand."""

from espnet_ext.audio.espeak_times import PAUSE, Event, align


def test_hand_made_events():
    """A closure before its phone, two words in one event, stress marks, and a pause at the end."""
    events = [
        Event(False, 0, 0, ""),
        Event(True, 0, 100, ""),  # "of the", one event
        Event(False, 0, 100, "ʌ"),
        Event(False, 0, 200, "v"),
        Event(False, 0, 300, "ð"),
        Event(False, 0, 400, "ə"),
        Event(False, 0, 450, "ː"),
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
        ("ː", 0.45),
        ("k", 0.5),
        ("æ", 0.6),
        (PAUSE, 0.8),
    ]
    assert [a.end_s for a in phones] == [b.start_s for b in phones[1:]] + [1.0]
    # Two and three letters share five phones.
    assert words == [("of", 0.0, 0.3), ("the", 0.3, 0.5), ("cat", 0.5, 0.8)]
