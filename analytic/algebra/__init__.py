"""The normal system of a wavelet coefficient's score and its solution, from noise and moments to cofactors."""
