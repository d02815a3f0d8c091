"""What a run is: typed sections (`schema`), YAML to spec with a place for every error (`load`), rules across fields."""
