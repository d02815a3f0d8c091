"""A run on disk: where its files are (`directory`), what is told of it (`events`) and how that is kept (`journal`)."""
