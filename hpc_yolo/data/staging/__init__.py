"""Staging: copies of a dataset's images on the disks of the nodes, made before the training, once on each node.

A staged copy is a directory of its own below the stage directory (`data.stage`):

    DIR/hpc-yolo-UID/             private (0700): /dev/shm and /tmp are writable by everybody
        DIGEST.lock               held by those that use the copy, exclusively by who makes or removes it
        DIGEST/files/…            the files, at the paths that they have in the dataset
        DIGEST/progress           how far the copy is, for those that wait for it
        DIGEST/complete.json      written last

The digest is that of all paths, sizes and times of the files, so that a changed dataset has another copy, and two jobs
with the same files share one. `contents` reads images from the copy. A dataset keeps its own paths everywhere else.

`plan` lists the files; `directory` is the layout with its locks and the removal of old copies; `room` checks the free
space; `copying` copies; `node` does all of it for one node.
"""
