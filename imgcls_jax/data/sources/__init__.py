"""The data sets that `data.source` may name, a file each: `data.source = "cifar10"` is `cifar10.py`.

A file exports `make`: a function, or a class, that opens one split and returns a `Source`
(`imgcls_jax/data/source.py`):

    make(split, *, root, ...) -> Source

`split` is what a configuration writes for a split, such as "train". The keyword arguments are the fields of
the section `data` that this data set reads; their annotations and defaults are checked and filled in by name.

To add a data set, add a file. Build on `Arrays` (images in memory) or `Files` (image files) of
`data/source.py` where they fit. `data/folders.py`, `data/lists.py`, `data/annotations.py` (JSON and .mat),
`data/tar_files.py`, `data/shards.py`, `data/idx.py` and `data/cifar.py` read the common layouts. A published
data set says in ORIGIN, an `Origin` of `data/folders.py`, where it comes from, and what
`tools.dataset download` fetches. What every source must keep:

- It pickles, because worker processes receive it, and it keeps no file open but in the process that reads it.
- It executes nothing that it reads. Pickles go through `runtime/restricted_pickle.py`.
- A split that no file fixes depends on the labels and a seed alone.
- `make` reports what is missing or wrong on disk, by a FileNotFoundError or a ValueError that names the file
  (and line) and the remedy. Image files after the first are looked for when they are read.
"""
