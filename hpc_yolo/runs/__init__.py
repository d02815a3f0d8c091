"""A run on disk: its paths (`directory`), its events (`events`, `journal`) and what follows from them (`attempts`)."""
