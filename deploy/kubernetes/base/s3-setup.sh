# Run by the client of MinIO: the bucket of the network, and a user that reaches nothing else.
mc alias set store http://minio:9000 bramble-root "$(cat /run/secrets/s3-root-password)"
mc mb --ignore-existing store/bramble
cat >/tmp/policy.json <<'POLICY'
{
  "Version": "2012-10-17",
  "Statement": [
    { "Effect": "Allow", "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads"], "Resource": ["arn:aws:s3:::bramble"] },
    {
      "Effect": "Allow",
      "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
      "Resource": ["arn:aws:s3:::bramble/*"]
    }
  ]
}
POLICY
mc admin policy create store bramble-store /tmp/policy.json
mc admin user add store bramble-store "$(cat /run/secrets/s3-secret-key)"
mc admin policy attach store bramble-store --user bramble-store || mc admin user info store bramble-store
