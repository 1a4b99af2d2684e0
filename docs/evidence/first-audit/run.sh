#!/bin/sh
# Makes the reports in this folder again, from the top of a checkout, with `sordino` (built with --features lab) on
# the path. The bundled classifier needs Debian's dataset-fashion-mnist. For the other two, target/data/cifar10 holds
# CIFAR-10 as an image folder and target/data/bangkok the Location set as CSV; they are trained first.
set -eu
# Written aside and copied at the end: a report says whether the checkout was clean when it was made.
out=target/first-audit
mkdir -p $out

sordino audit --json $out/fashion.json --markdown $out/fashion.md

audit() { # name, data
    test -e "target/$1.safetensors" || sordino centroids build --model "target/$1.onnx" --data "$2" \
        --split "target/$1.split.json" --out "target/$1.safetensors"
    sordino audit --model "target/$1.onnx" --centroids "target/$1.safetensors" --data "$2" \
        --split "target/$1.split.json" --json "$out/$1.json" --markdown "$out/$1.md"
}

test -e target/cifar_cnn.onnx || sordino train --data folder:target/data/cifar10 --network cnn --channels 32,64 \
    --hidden 128 --train-rows 8000 --validation-rows 2000 --calibration-rows 4000 --test-rows 10000 --epochs 20 \
    --batch-size 64 --learning-rate 0.001 --seed 7 --out target/cifar_cnn.onnx
audit cifar_cnn folder:target/data/cifar10

test -e target/location_mlp.onnx || sordino train --data csv:target/data/bangkok --network mlp --hidden 256,128 \
    --train-rows 1500 --validation-rows 500 --calibration-rows 1000 --test-rows 2000 --epochs 60 --batch-size 64 \
    --learning-rate 0.001 --seed 7 --out target/location_mlp.onnx
audit location_mlp csv:target/data/bangkok

cp $out/* docs/evidence/first-audit/
python3 docs/evidence/first-audit/tables.py
