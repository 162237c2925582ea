"""Kinds of sources of images, by the names that ``prepare --format`` and the catalogue have for them."""

#: What ``--format`` names.
SOURCE_FORMATS = ("png", "jpg", "zip", "tar", "npy", "hdf5", "tfds", "lmdb", "tfrecords", "webdataset")
#: What a download is: how the catalogue calls it, how it is read, and the suffix of the file.
DOWNLOAD_FORMATS = {
    "zip of pictures": ("zip", ".zip"),
    "zip of tfrecords": ("tfrecords", ".zip"),
    "zip of lmdb": ("lmdb", ".zip"),
    "tar of pictures": ("tar", ".tar"),
    "webdataset": ("webdataset", ".tar"),
    "tfrecords": ("tfrecords", ".tfrecords"),
    "hdf5": ("hdf5", ".h5"),
    "npy": ("npy", ".npy"),
}
