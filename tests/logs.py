"""A small log of films as RecBole and GroupLens write it, and its readable titles."""

import numpy as np

FILMS = [
    ("1", "Toy Story", "1995"),
    ("2", "Matrix, The", "1999"),
    ("3", "Blue Angel, The (Blaue Engel, Der)", "1930"),
    ("4", "Misérables, Les", "1995"),
    ("5", "Land Before Time III: The Time of the Great Giving (1995)", "V"),
    ("6", "unkonwn", "unkonwn"),
    ("7", "Chasing Amy", "1997"),
    ("8", "Chasing Amy", "1997"),
]
READABLE = (
    "Toy Story (1995)",
    "The Matrix (1999)",
    "The Blue Angel (Der Blaue Engel) (1930)",
    "Les Misérables (1995)",
    "Land Before Time III: The Time of the Great Giving (1995)",
    "unknown",
)


def log_rows():
    """Twelve users, each with 6 of the 8 films, at times that are not in the order of the file."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(1, 13):
        for film in rng.permutation(8)[:6]:
            rows.append((str(user), FILMS[film][0], "4", str(int(rng.integers(100, 110)))))
    return rows


def write_recbole(folder):
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "x.inter").write_text(head + "".join("\t".join(r) + "\n" for r in log_rows()), encoding="utf-8")
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    rows = "".join(f"{i}\t{title}\t{year}\tDrama\n" for i, title, year in FILMS)
    (folder / "x.item").write_text(head + rows, encoding="utf-8")
    return folder


def write_grouplens(folder):
    folder.mkdir()
    (folder / "u.data").write_text("".join("\t".join(r) + "\n" for r in log_rows()))
    rows = []
    for number, title, year in FILMS:
        dated = "unknown" if title == "unkonwn" else f"{title} ({year})"
        release = "" if title == "unkonwn" else "01-Jan-1995"
        rows.append(f"{number}|{dated}|{release}||http://x|" + "|".join("0" * 19) + "\n")
    (folder / "u.item").write_text("".join(rows), encoding="latin-1")
    return folder
