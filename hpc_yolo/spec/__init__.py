"""The spec of a run: typed sections (`schema`), YAML with a location for every error (`load`), rules across fields."""
