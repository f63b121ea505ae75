"""Read, check and freeze settings and users; say precisely which key is wrong."""
