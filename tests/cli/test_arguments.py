from unmix.cli.arguments import split_dotted


def test_dotted_keys_are_taken_out_wherever_they_stand():
    words, dotted = split_dotted(
        ["sweep", "--a.b", "1", "my.yaml", "--training.l1", "0", "5", "--name", "x", "--c.d=e"]
    )
    assert words == ["sweep", "my.yaml", "--name", "x"]
    assert dotted == {"a.b": ["1"], "training.l1": ["0", "5"], "c.d": ["e"]}
