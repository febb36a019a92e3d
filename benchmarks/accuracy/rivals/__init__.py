"""The neighbours, written from descriptions of their papers and repositories; no code of theirs was used."""
