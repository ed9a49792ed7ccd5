"""SEN12MS, DFC2020 and other images with label maps: names, files, histograms, and checks of the labels."""
