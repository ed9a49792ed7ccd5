"""BigEarthNet as it is published: names, labels, files and the table of its patches."""
