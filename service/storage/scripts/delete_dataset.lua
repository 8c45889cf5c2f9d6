-- Delete a data set's record unless jobs still need it.
-- KEYS[1]  hash        the data set: fields record, created_at
-- KEYS[2]  sorted set  all data sets by time of creation
-- KEYS[3]  set         the jobs that use it and have not ended
-- KEYS[4]  set         object keys that no record names any more
-- ARGV[1]  the data set's id
-- ARGV[2]  how many of the jobs to name
-- Returns  {1, object key} if it was deleted, {0, jobs...} if it is used, false if there is none.
-- Invariant: no job that has not ended loses its data set; an object that its record named is in that record or in KEYS[4].
local record = redis.call('HGET', KEYS[1], 'record')
if not record then
  return false
end
local jobs = redis.call('SRANDMEMBER', KEYS[3], ARGV[2])
if #jobs > 0 then
  return {0, unpack(jobs)}
end
local read, fields = pcall(cjson.decode, record)
local object_key = read and type(fields) == 'table' and fields.object_key
if type(object_key) == 'string' then
  redis.call('SADD', KEYS[4], object_key)
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return {1, object_key or ''}
