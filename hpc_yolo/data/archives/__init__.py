"""Plain tar and zip archives of a dataset, read in place: nothing is ever extracted to a disk.

A path goes through an archive where one of its parents is one: coco.zip/images/train/1.jpg. `members` has the table of
an archive's members, `tar` and `zip` read it from a file, and `archive` reads members by it.

Archives are hostile until checked. Names that are absolute or have `..`, links out of the archive, devices, encrypted
or overlapping members, two members of one name, sizes that compression cannot reach, too many members, and ends that
are missing are refused, each with a sentence. Needs no NumPy.
"""
