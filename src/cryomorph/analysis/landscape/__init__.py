"""The landscape of a model's maps in volume space (Zhong et al. 2022)."""
