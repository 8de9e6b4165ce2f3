"""What the embedded model writes after a text, plain and with a feature of the chosen member added at its maximum.

python steer.py RUN FEATURE "import os\\n\\ndef read(path):\\n    return"
"""

import sys
from pathlib import Path

from unmix.explore.intervene import Change, intervene
from unmix.explore.prompt import prompt_ids
from unmix.explore.server_files import read_manifest
from unmix.explore.server_open import open_served


def main(run: Path, feature: int, text: str) -> None:
    served = open_served(run, run / "explore", model=None, corpus=None, hook=None, say=lambda line: None)
    member = served.members[chosen(run)]
    ids_T = prompt_ids(served.lm, text).ids_T
    change = Change(feature, "add", 1.0, member.unit(feature))
    found = intervene(served.lm, member.hook, member.sae, ids_T, [change], generate=40, temperature=0.7, seed=0)
    print(f"KL {found.kl_T.mean():.3f} nats a position")
    for name, row in (("plain", found.plain), ("changed", found.changed)):
        print(f"--- {name}\n{text}{served.lm.tokenizer.decode(row.generated)}")


def chosen(run: Path) -> str:

    return str(read_manifest(run / "explore/site")["chosen"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode().decode("unicode_escape"))
