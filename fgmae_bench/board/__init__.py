"""Records of several people in one store: a git repository, or a data set of the hub, which is one too."""
